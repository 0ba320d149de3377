"""How the demo model is trained, on music that is made here: docs/demo-model.md. Nothing that serves imports it."""
