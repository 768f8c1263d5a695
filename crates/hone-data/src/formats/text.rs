//! Running text: the column `text`.

use super::{Fields, Format, ReadOptions};
use crate::error::RowError;
use crate::example::Body;

pub(super) struct Text;

impl Format for Text {
    fn name(&self) -> &'static str {
        "text"
    }

    fn columns(&self) -> &'static str {
        "`text`"
    }

    fn fields(&self) -> &'static [&'static str] {
        &["text"]
    }

    fn recognise(&self, row: &Fields) -> bool {
        row.is_text("text")
    }

    fn read(&self, row: &Fields, _: &ReadOptions) -> Result<Body, Box<RowError>> {
        Ok(Body::Text(row.text("text")?.into()))
    }
}
