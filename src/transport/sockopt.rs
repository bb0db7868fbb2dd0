//! Socket options that the standard library has no call for.
