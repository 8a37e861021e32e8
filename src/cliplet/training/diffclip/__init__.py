"""The few-shot multimodal classifier (DiffCLIP, arXiv 2412.07119): pretraining without labels, few-shot tuning."""
