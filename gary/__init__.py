"""gary: continues music with MusicGen. The library of the service; it never imports ray."""
