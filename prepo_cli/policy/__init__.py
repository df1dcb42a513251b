"""The policy: loading it, scoring tokens with it, its adapters, whole tensors of a sharded one."""
