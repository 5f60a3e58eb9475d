//! Chunks, packs, image trees and recovery point objects: the format of the vault.
