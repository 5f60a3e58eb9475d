//! VHDX virtual disk files and differencing chains.
