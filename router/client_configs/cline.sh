cline auth openai --apikey "@KEY@" --baseurl "@URL@/v1" --modelid "@MODEL@"
