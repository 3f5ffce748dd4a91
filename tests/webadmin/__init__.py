"""WebAdmin: who may use it, its pages, and how they are served."""
