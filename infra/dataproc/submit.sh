#!/bin/sh
# One stage on a running Dataproc cluster (Spark 4).   infra/dataproc/submit.sh CLUSTER REGION STAGE CONFIG
# CONFIG lies on a file system that every node sees (Filestore). Create the cluster with the libraries on every node:
#   gcloud dataproc clusters create CLUSTER --region REGION \
#     --properties '^#^dataproc:pip.packages=pyarrow==21.0.0,pydantic==2.11.7,xxhash==3.5.0,zstandard==0.23.0,tokenizers==0.21.4'
# pyarrow takes its credentials from the nodes' service account.
set -eu
cluster=$1 region=$2 stage=$3 config=$4
root=$(cd "$(dirname "$0")/../.." && pwd)

archive=$(mktemp -d)/quadmix.zip
(cd "$root" && python3 -m zipfile -c "$archive" quadmix proxy_models jobs)

gcloud dataproc jobs submit pyspark "$root/jobs/$stage.py" \
  --cluster "$cluster" --region "$region" \
  --py-files "$archive" \
  --properties "spark.executor.memory=1g,spark.executor.memoryOverhead=2304m" \
  -- --config "$config"
