def write(path, scene, size): pass
