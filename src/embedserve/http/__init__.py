"""The HTTP doors: two dialects of one service, and what an operator needs beside them."""
