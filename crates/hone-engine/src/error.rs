//! What can go wrong in the engine because of the world (not because of a bug).

/// Errors of the engine.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A quantised block type that is not known.
    #[error("unknown quantised block type {found}; known: {known}")]
    UnknownBlockType {
        /// The type's number in the file.
        found: u32,
        /// Names of the known types.
        known: String,
    },
    /// A buffer whose length does not fit its shape.
    #[error("{what}: {found} bytes, expected {expected}")]
    BufferLength {
        /// What was being read.
        what: String,
        /// Bytes found.
        found: usize,
        /// Bytes expected.
        expected: usize,
    },
    /// A row length that is no multiple of the quantisation block.
    #[error("a row of {columns} values does not divide into blocks of {block} ({kind})")]
    BlockAlignment {
        /// Row length.
        columns: usize,
        /// Values a block.
        block: usize,
        /// Block type's name.
        kind: &'static str,
    },
    /// A block type that is read but not written.
    #[error("blocks of type {kind} cannot be written; writable: {writable}")]
    NotWritable {
        /// Block type's name.
        kind: &'static str,
        /// Names of the writable types.
        writable: &'static str,
    },
}
