"""The local stack: every component as a supervised process on this machine, data in one `Home`.

Read `lifecycle` first (up, down), then `components` (what runs), then `launch` (how one process begins).
"""
