"""`sparsekern compare BASE HEAD`: is head slower? A verdict that CI can believe."""
