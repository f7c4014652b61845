"""What is taken of encoded images, wherever they are decoded."""

# Largest number of pixels that a file may declare.
MAX_PIXELS = 2**24
