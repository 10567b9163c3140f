"""Where what callers send is limited, before it costs memory or time: `limits` lists every limit."""
