"""The neural networks behind the pipeline, one module a family, all behind :class:`base.Backbone`."""
