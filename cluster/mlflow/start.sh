#!/bin/sh
# Starts MLflow's server. Secrets come as files, one a value, below $SECRETS, and go into no command line:
#   database-password, admin-password, session-key, s3-access-key, s3-secret-key
# Settings come as variables: DATABASE_HOST, ARTIFACTS (s3://BUCKET/mlflow), ALLOWED_HOSTS (mlflow.team), and those with
# defaults below.
set -eu
umask 077
secret() { cat "${SECRETS:-/run/secrets}/$1"; }
database="postgresql://mlflow@${DATABASE_HOST}:${DATABASE_PORT:-5432}"

PGPASSWORD="$(secret database-password)"
AWS_ACCESS_KEY_ID="$(secret s3-access-key)"
AWS_SECRET_ACCESS_KEY="$(secret s3-secret-key)"
MLFLOW_FLASK_SERVER_SECRET_KEY="$(secret session-key)"
MLFLOW_AUTH_ADMIN_PASSWORD="$(secret admin-password)"
export PGPASSWORD AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_ADMIN_PASSWORD
export MLFLOW_AUTH_CONFIG_PATH="${TMPDIR:-/tmp}/auth.ini" MLFLOW_BACKEND_STORE_URI="$database/mlflow"
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_DISABLE_TELEMETRY=true

# The cache keeps a password check for a minute: without it each request hashes the password anew.
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = READ
database_uri = $database/mlflow_auth
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
auth_cache_ttl_seconds = 60
INI

exec mlflow server --app-name basic-auth --host "${HOST:-0.0.0.0}" --port "${PORT:-5000}" --workers "${WORKERS:-2}" \
  --artifacts-destination "$ARTIFACTS" --allowed-hosts "$ALLOWED_HOSTS"
