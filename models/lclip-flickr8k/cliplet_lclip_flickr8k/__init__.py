"""The model folder ``lclip-flickr8k`` lies beside this file; cliplet finds it by the entry point of its name."""
