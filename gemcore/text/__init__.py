"""Text in and out: tokenizers, chat templates, sampling and streaming."""
