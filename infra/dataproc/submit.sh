#!/bin/sh
# One stage on a running Dataproc cluster (Spark 4).   infra/dataproc/submit.sh CLUSTER REGION STAGE CONFIG
# CONFIG lies on a file system that every node sees (Filestore). Create the cluster with the libraries on every node:
#   gcloud dataproc clusters create CLUSTER --region REGION \
#     --properties '^#^dataproc:pip.packages=Jinja2==3.1.6,lightgbm==4.7.0,matplotlib==3.11.2,numpy==2.4.6,pyarrow==26.0.1,pydantic==2.14.3,PyYAML==6.0.3,rich==15.0.0,safetensors==0.8.0,scikit-learn==1.9.1,scipy==1.17.1,tiktoken==0.14.0,tokenizers==0.23.3,xxhash==4.1.0,zstandard==0.25.0,torch==2.13.0'
# (versions of your own choice: it wants exact ones; torch only where a perplexity scorer or a search runs)
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
