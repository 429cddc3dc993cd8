"""The formats of a transparency log (C2SP), without any rule of the federation."""
