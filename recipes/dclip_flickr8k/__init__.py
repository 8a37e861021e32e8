"""DCLIP on Flickr8k, from a base model made of parts that install with pip; see README.md."""
