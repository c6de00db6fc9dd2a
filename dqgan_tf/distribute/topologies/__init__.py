"""Ways of computing the compressed mean of all replicas' vectors."""
