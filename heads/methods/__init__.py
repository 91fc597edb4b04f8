"""The methods, one file each; private parts beside them with an underscore."""
