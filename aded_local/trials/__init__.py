"""What could end this process is tried in a child first: a build of llama.cpp, a file."""
