//! The simulated Hyper-V host: WS-Management over real VHDX files.
