package room

func chimney() bool { return true }
