"""Which class a photo shows: by class texts without training, or by a few labelled photos."""
