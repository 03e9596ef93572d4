"""The image table as web pages.

They work without JavaScript: links, forms, an answer to each.  A script of ours adds that they keep themselves up to
date.  Nothing comes from anywhere else, and nothing stands in a page that could run: what strangers wrote is escaped
by the templates, and the browser is told to take scripts and styles from files only.

routes        the addresses
views         what is shown
actions       what forms do
sign_in       coming in and going out
side_by_side  what the client sent beside what the brain got
spreadsheet   lists as CSV
render        templates, and what every page has
wording       how sizes, times and strangers' words are written
assets        style, script and mark, under names that change with their contents
"""
