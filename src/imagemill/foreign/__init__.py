"""Reading what others have written: folders, archives and tables of pictures with what is told of each."""
