"""Where a model comes from: a file, folder or hub name (`load`), a seed, and `Embedder`, pictures to vectors."""
