//! Limits on peers that have not proved who they are.
