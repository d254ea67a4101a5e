-- Runs once, when PostgreSQL's folder is empty: the users and their permissions have a database of their own.
CREATE DATABASE mlflow_auth OWNER mlflow;
