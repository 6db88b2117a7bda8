//! Empty: this package exists for its dependency, whose C files `build` compiles.
