"""How the demo model is trained, on music that is made here; docs/demo-model.md tells how. Nothing that serves knows it."""
