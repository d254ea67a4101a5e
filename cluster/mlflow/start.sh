#!/bin/sh
# Starts MLflow's server. Secrets come as files (one a value) below /run/secrets, and go into no command line.
#   database-password, admin-password, session-key, s3-access-key, s3-secret-key
# Settings come as variables: DATABASE_HOST, ARTIFACTS (s3://BUCKET/mlflow), ALLOWED_HOSTS (mlflow.team).
set -eu
umask 077
secret() { cat "/run/secrets/$1"; }

export PGPASSWORD="$(secret database-password)"
export AWS_ACCESS_KEY_ID="$(secret s3-access-key)" AWS_SECRET_ACCESS_KEY="$(secret s3-secret-key)"
export MLFLOW_FLASK_SERVER_SECRET_KEY="$(secret session-key)"
export MLFLOW_AUTH_ADMIN_PASSWORD="$(secret admin-password)"
export MLFLOW_AUTH_CONFIG_PATH=/tmp/auth.ini
export MLFLOW_BACKEND_STORE_URI="postgresql://mlflow@${DATABASE_HOST}:5432/mlflow"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true

# The cache keeps a password check for a minute: without it each request hashes the password anew.
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = READ
database_uri = postgresql://mlflow@${DATABASE_HOST}:5432/mlflow_auth
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI

exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers "${WORKERS:-2}" \
  --artifacts-destination "$ARTIFACTS" --allowed-hosts "$ALLOWED_HOSTS"
