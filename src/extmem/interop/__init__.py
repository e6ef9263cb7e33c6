"""Memory as the tensors of other libraries, without a copy."""
