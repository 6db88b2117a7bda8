//! What a side keeps of a pairing.
