"""DiffCLIP, the few-shot multimodal classifier, on the Houston2013 pixels. See README.md."""
