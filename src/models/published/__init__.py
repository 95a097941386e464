"""Networks and weights that others published, by the names that torchvision and timm give them."""
