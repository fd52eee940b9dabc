"""Instructions a token on a Raspberry Pi 4's processor: GEM beside llama.cpp, counted by QEMU."""
