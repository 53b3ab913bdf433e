//! `posthorn-ingest webhooks list|show`

use clap::Subcommand;
use shared::ids::WebhookId;

use super::client::{Client, text, visible};

/// The most pages that are read.
const PAGES: usize = 400;

#[derive(Subcommand)]
pub(super) enum Command {
    /// List webhooks, the newest first.
    List {
        /// Print a JSON object per line.
        #[arg(long)]
        json: bool,
    },
    /// Show a webhook, as JSON. Its secret is masked.
    Show { id: WebhookId },
}

impl Command {
    #[allow(clippy::print_stdout)] // Printing is what these commands are for.
    pub(super) async fn run(self, api: &Client) -> anyhow::Result<()> {
        match self {
            Self::Show { id } => {
                let webhook = api.get(&format!("/api/v1/webhooks/{id}"), &[]).await?;
                println!("{webhook:#}");
            }
            Self::List { json } => {
                let mut query = vec![("limit", "250".to_owned())];
                for _ in 0..PAGES {
                    let page = api.get("/api/v1/webhooks", &query).await?;
                    for webhook in page["webhooks"].as_array().into_iter().flatten() {
                        if json {
                            println!("{webhook}");
                            continue;
                        }
                        let events = webhook["events"].as_array().into_iter().flatten();
                        let events: Vec<_> = events.map(text).collect();
                        println!(
                            "{} {:<9} {} {}",
                            text(&webhook["id"]),
                            text(&webhook["status"]),
                            text(&webhook["url"]),
                            visible(&events.join(" ")),
                        );
                    }
                    let Some(cursor) = page["next_cursor"].as_str() else {
                        break;
                    };
                    query = vec![("limit", "250".to_owned()), ("cursor", cursor.to_owned())];
                }
            }
        }
        Ok(())
    }
}
