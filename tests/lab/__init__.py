"""A laboratory of network namespaces: hosts around a gateway, real programs on them."""
