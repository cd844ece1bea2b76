#!/bin/sh
# One stage on a running EMR cluster (Spark 4).   infra/emr/submit.sh CLUSTER_ID s3://BUCKET/PREFIX STAGE CONFIG
# CONFIG lies on a file system that every node sees (EFS, FSx). The executors' Python comes as a packed environment:
#   python -m venv env && env/bin/pip install -c infra/constraints.txt '.[score,search]' 'pandas<3' venv-pack
#   env/bin/venv-pack -o environment.tar.gz && aws s3 cp environment.tar.gz s3://BUCKET/PREFIX/environment.tar.gz
# pyarrow takes its credentials from the instance profile; EMRFS roles and KMS settings do not reach it.
set -eu
cluster=$1 prefix=$2 stage=$3 config=$4
root=$(cd "$(dirname "$0")/../.." && pwd)

archive=$(mktemp -d)/quadmix.zip
(cd "$root" && python3 -m zipfile -c "$archive" quadmix proxy_models jobs)
aws s3 cp "$archive" "$prefix/quadmix.zip"
aws s3 cp "$root/jobs/$stage.py" "$prefix/$stage.py"

aws emr add-steps --cluster-id "$cluster" --steps "Type=Spark,Name=quadmix-$stage,ActionOnFailure=CONTINUE,Args=[\
--deploy-mode,cluster,\
--archives,$prefix/environment.tar.gz#environment,\
--py-files,$prefix/quadmix.zip,\
--conf,spark.pyspark.python=./environment/bin/python,\
--conf,spark.yarn.appMasterEnv.PYSPARK_PYTHON=./environment/bin/python,\
--conf,spark.executor.memory=1g,\
--conf,spark.executor.memoryOverhead=2304m,\
$prefix/$stage.py,--config,$config]"
