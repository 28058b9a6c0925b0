# What the token of a connection of type vault needs, and no more: see docs/vault-connection.md. Put
# your own paths in the place of secret/intelliflow/ and transit/intelliflow-data, and leave out what
# you do not use.

# --- for every connection
# How the token is proven, and lives on.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
# What it may do: asked before a rotation, and by connections/:name/check.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
# Where a mount ends and the path in it begins. Vault answers for paths at which the token may do something.
path "sys/internal/ui/mounts/*" {
  capabilities = ["read"]
}

# --- mirror=self/secret/intelliflow/...: KV version 2
path "secret/data/intelliflow/*" {
  capabilities = ["create", "read", "update"]
}

# --- backend=self/transit/intelliflow-data
path "transit/keys/intelliflow-data" {
  capabilities = ["read"]
}
path "transit/keys/intelliflow-data/rotate" {
  capabilities = ["update"]
}
# min_decryption_version, once no data is left of earlier versions.
path "transit/keys/intelliflow-data/config" {
  capabilities = ["update"]
}
# A random value, encrypted and rewrapped, proves that the new version works.
path "transit/encrypt/intelliflow-data" {
  capabilities = ["update"]
}
path "transit/rewrap/intelliflow-data" {
  capabilities = ["update"]
}
# Only for rows of a target with an associated_data_column: rewrap does not heed it, so that they are
# decrypted, and encrypted anew.
# path "transit/decrypt/intelliflow-data" {
#   capabilities = ["update"]
# }
