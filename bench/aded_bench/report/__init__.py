"""Result files as Markdown, charts and one page."""
