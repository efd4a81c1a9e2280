"""The networks, in torch. Nothing on the inference side imports them."""
