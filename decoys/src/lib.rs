//! Recipes of decoy machines, and the builder that makes disk images of them.
