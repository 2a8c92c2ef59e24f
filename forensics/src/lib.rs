//! Evidence cases: memory and disk acquisition, dump formats, verification.
