from pictures import one_thread  # noqa: F401
