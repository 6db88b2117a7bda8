//! Noise_KKpsk0_25519_ChaChaPoly_SHA512.
