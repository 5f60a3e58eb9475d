//! Lists that come in parts.

use api::v1::Page;
use api_client::People;
use serde::de::DeserializeOwned;

use crate::failure::Failure;

/// Reads a whole list, part by part; `most` bounds it. `path` may already hold a query.
pub(crate) async fn all<T: DeserializeOwned>(
    client: &People,
    path: &str,
    most: Option<usize>,
) -> Result<Vec<T>, Failure> {
    let mut items = Vec::new();
    let mut cursor: Option<String> = None;
    loop {
        let page: Page<T> = match &cursor {
            None => client.get(path).await?,
            Some(cursor) => {
                let joint = if path.contains('?') { '&' } else { '?' };
                let path = format!("{path}{joint}cursor={}", People::segment(cursor));
                client.get(&path).await?
            }
        };
        let empty = page.items.is_empty();
        items.extend(page.items);
        if let Some(most) = most
            && items.len() >= most
        {
            items.truncate(most);
            return Ok(items);
        }
        // A server that hands out cursors without entries must not keep us here for ever.
        if page.next.is_none() || empty {
            return Ok(items);
        }
        cursor = page.next;
    }
}
